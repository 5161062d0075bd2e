"""Well-known tools, each in one file that its maintainer can correct. Hosted in environments of their own, never in ours."""
