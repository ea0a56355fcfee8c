"""What `mcpkg <command>` does, a module each. Heavy imports happen inside the functions, so that help comes at once."""
