"""The command line, `mcpkg <command>`. Imports all but factory; heavy imports happen inside functions."""
