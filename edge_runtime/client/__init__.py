"""What programs and `edgectl` use to find boxes and to talk to them."""
