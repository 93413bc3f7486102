"""`/v2` over gRPC. Imported only where the port is wanted: the library costs start-up time and is an extra."""

import os

# The library's own log goes to standard error; what matters of it comes back as exceptions and statuses.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
