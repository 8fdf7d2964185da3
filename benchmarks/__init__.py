"""Side-by-side measurements with peers; never imported by the product."""
