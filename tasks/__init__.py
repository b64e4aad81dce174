"""One trial from start to end on one machine; works without Ray."""
