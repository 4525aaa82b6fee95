"""Measures the operator on the real API server with kwok's nodes, beside a plain kopf operator of the usual shape."""
