"""One adapter a peer, used where the peer is installed."""
