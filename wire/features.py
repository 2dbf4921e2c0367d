"""Owns the features by which worker.v1 grows: what a peer may announce at first (PROTOCOL.md, "Features").

A feature is in use on a connection once both sides have announced it. Only then may one side send what the
other would not understand, or would be wrong to ignore. A peer that announces none speaks version 1 as it
first was.
"""

import enum
from typing import Final


class Feature(enum.StrEnum):
    """Every feature that this code has; a peer's others mean nothing to it."""

    #: The client takes codes, kinds, statuses and reasons that it does not know, and treats them by class.
    OPEN_VALUES = "open_values"
    #: A start may name its job's id, and be asked for again.
    START_ID = "start_id"


#: What both ends of ours announce.
FEATURES: Final = tuple(Feature)
