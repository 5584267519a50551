"""What tests of this project, and of programs that build on it, need beside the store itself."""
