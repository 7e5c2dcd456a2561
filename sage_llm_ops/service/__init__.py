"""How programs reach the control plane from outside: as a SAGE service, and over HTTP."""
