"""How fast are fxdevice's strategies beside what people use instead? `python -m benchmarks`."""
