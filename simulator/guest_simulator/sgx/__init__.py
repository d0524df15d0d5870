"""SGX enclaves that do not exist, as Gramine and Occlum show them."""
