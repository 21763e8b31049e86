"""SnifferNode: what one node's agent reports. Written by that agent only, and only on change."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from sniffer.model.base import Allowed, Instant, Model, Text, one_of


class NodeState(StrEnum):
    """What the agent of a node is doing."""

    RUNNING = "Running"
    CLEAN = "Clean"
    REFUSED = "Refused"


class MirrorReport(Model):
    """What became of one mirror on this node."""

    kind: Annotated[Text, Field(max_length=63), Allowed("a kind")]
    """TrafficMirror or ClusterTrafficMirror."""
    namespace: Annotated[Text, Field(max_length=63), Allowed("a namespace")] | None = None
    """Its namespace."""
    name: Annotated[Text, Field(max_length=253), Allowed("a name")]
    """Its name."""
    uid: Annotated[Text, Field(max_length=63), Allowed("a uid")]
    """Its uid: another mirror may have the name later."""
    generation: Annotated[int, Field(ge=0), Allowed("a number from 0")]
    """The generation that this is said of."""
    state: Annotated[Text, Field(max_length=63), Allowed("a state")]
    """Rejected, Pending, Programmed, Suspended, Expired or Degraded."""
    reason: Annotated[Text, Field(max_length=63), Allowed("a word")] | None = None
    """Why, in one word for programs."""
    message: Annotated[Text, Field(max_length=512), Allowed("text")] | None = None
    """Why, for people."""
    pods: Annotated[int, Field(ge=0), Allowed("a number from 0")] = 0
    """Pods of this node whose traffic is mirrored."""


class NodeStatus(Model):
    """What the agent of this node says."""

    state: Annotated[NodeState, Field(strict=False), one_of(NodeState)] = NodeState.RUNNING
    """Running; Clean: everything of sniffer was removed from the node; Refused: no agent runs there, see message."""
    message: Annotated[Text, Field(max_length=512), Allowed("text")] | None = None
    """What is wrong with the node itself, for people: why it is refused, or fixes that its kernel lacks."""
    order: Annotated[Text, Field(max_length=127), Allowed("an order")] | None = None
    """Clean: the order that was carried out; none where the agent left the node by itself."""
    version: Annotated[Text, Field(max_length=63), Allowed("a version")] = ""
    """The agent's version."""
    reported: Instant | None = None
    """When this was written."""
    mirrors: Annotated[tuple[MirrorReport, ...], Field(strict=False, max_length=4096), Allowed("a list")] = ()
    """The mirrors that concern this node."""
