"""Random histories of the real engine over virtual time, network and stores."""
