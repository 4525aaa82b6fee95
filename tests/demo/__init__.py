"""What `make demo` runs: a real fine-tune on a real Kubernetes, served, and replaced under load."""
