"""Load with Artillery: the scenarios, their driver and its report. README.md of benchmarks/ says what is measured."""
