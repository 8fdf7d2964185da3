"""Small sounds that the page offers, and the script that makes them."""
