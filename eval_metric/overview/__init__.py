"""One page of everything that was measured: `granted report FOLDER`."""
