"""The command line, `mcpkg <command>`. May import everything; heavy imports happen inside the functions, for quick help."""
