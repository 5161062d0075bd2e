"""The probe: does your gateway let in what nobody signed? For owners of a gateway, on hosts that they name."""
