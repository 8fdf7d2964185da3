"""Sound and networks: decode, front ends, YAMNet, VGGish, heads, weights, runtimes. Knows no Ray, no HTTP, no settings."""
