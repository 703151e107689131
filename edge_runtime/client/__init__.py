"""What programs and `edgectl` use: discover boxes, push models, ask for answers."""
