"""Readers: a data set as it lies -> one table with the same columns for all."""
