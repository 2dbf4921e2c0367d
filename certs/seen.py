"""Owns what a running server has seen revoked, so that no later set of files makes it forget any of it.

A list outlives its authority's place in ca.crt here: the authority may be put back one day, without its list
or with an older one, and whom it had revoked must not come in again then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from certs.errors import CertsError
from certs.revocation import RevocationList, authority_id
from certs.roles import name_of
from certs.trusted import AUTHORITIES, LIST, TrustedSet


@dataclass(frozen=True, slots=True)
class SeenLists:
    """The last list of each authority among the sets that a server has used since its start.

    There is one for each authority in the set in use, and for each of those before that has revoked anybody:
    what it grows by is what the operator has taken out. That is never dropped. A list does not tell when what
    is revoked in it ends, and the authority's own end says little, as it may come back renewed.
    """

    last: Mapping[bytes, RevocationList] = field(default_factory=dict)

    def after(self, used: TrustedSet) -> "SeenLists":
        """What has been seen once a set, which `check` has let pass, is in use."""
        last = {**self.last, **{it.authority: it for it in used.lists}}
        return SeenLists({key: it for key, it in last.items() if it.revoked or key in used.trusted})

    def check(self, new: TrustedSet) -> None:
        """Raise CertsError if a set has less than was seen of the authorities that it trusts."""
        lists = {it.authority: it for it in new.lists}
        names = {authority_id(it): name_of(it.subject) for it in new.authorities}
        for authority in self.last.keys() & names.keys():
            before, after, name = self.last[authority], lists.get(authority), names[authority]
            if after is None:
                raise CertsError(
                    f"{LIST} no longer holds list {before.number} of {name}, an authority in {AUTHORITIES}: "
                    "put it or a newer one there, or restart the server to go without."
                )
            if after.number < before.number:
                raise CertsError(
                    f"{LIST} holds list {after.number}, which is older than {before.number}, the last one of "
                    f"{name}: put the newest one there, or restart the server to go back."
                )
            # Lists without a number all have the same.
            if after.number == before.number and (
                after.this_update < before.this_update or before.revoked.keys() - after.revoked.keys()
            ):
                raise CertsError(
                    f"{LIST} holds another list {after.number} than the last one of {name}, which is older "
                    "or holds less: put the newest one there, with a higher number, or restart the server to "
                    "go back."
                )
