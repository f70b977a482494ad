"""What must be set before jax and Keras start: two CPU devices, for the sharding tests, and Keras on JAX.

And Ctrl-C, which a shell that runs the tests in the background has them ignore, and the scripts that they start too.
"""

import os
import signal
import threading

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ.setdefault("KERAS_BACKEND", "jax")
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
