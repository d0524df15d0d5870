"""TEEs and devices that are not TDX, as their kernels and libraries show them."""
