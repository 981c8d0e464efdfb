"""What every part of the package uses: values of settings checked against their declarations."""
