"""What single parts of a call and of planning cost, measured by pytest-benchmark."""
