"""What a signature policy asks for, and whether an image has it."""
