"""What must be set before jax and Keras start: two CPU devices, for the sharding tests, and Keras on JAX."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ.setdefault("KERAS_BACKEND", "jax")
