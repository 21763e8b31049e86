"""Which resource is meant."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """Names one resource of a cluster, or of a directory; `namespace` is None for cluster-scoped kinds."""

    kind: str
    namespace: str | None
    name: str

    def __str__(self) -> str:
        place = self.name if self.namespace is None else f"{self.namespace}/{self.name}"
        return f"{self.kind} {place}"

    def __lt__(self, other: "Identity") -> bool:
        return self._key < other._key

    @property
    def _key(self) -> tuple[str, str, str]:
        # None does not compare with str; no namespace is named "".
        return self.kind, self.namespace or "", self.name
