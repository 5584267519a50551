"""S3 servers for one machine: each on loopback, everything that it writes under one directory, ended by process id."""
