"""One network as one graph of the operations it really runs, and what those operations say about its weights."""

from firstlight.graph.fan import Fan, fans
from firstlight.graph.ir import Graph, Node
from firstlight.graph.record import record
from firstlight.graph.trace import call_arguments, trace
from firstlight.graph.untouched import untouched
from firstlight.graph.walk import Activation

__all__ = ["Activation", "Fan", "Graph", "Node", "call_arguments", "fans", "record", "trace", "untouched"]
