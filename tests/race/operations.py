"""Owns the table of operations that are cancelled at every checkpoint; each says what must hold after it."""

from tests.race import audit_operations, connection_operations, job_operations, output_operations
from tests.race.cancel import Operation

OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for group in (job_operations, connection_operations, audit_operations, output_operations)
    for operation in group.OPERATIONS
}
#: Those that depend on which cgroups a host has.
HOST_OPERATIONS = frozenset(operation.__name__ for operation in job_operations.OPERATIONS)
