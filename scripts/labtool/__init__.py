"""The lab: network namespaces as nodes and pods, with the real agents and the real controller."""
