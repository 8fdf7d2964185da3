"""Training and sweeps with Ray Train and Tune. Empty until their issue comes; the name is reserved by the house's plan."""
