"""What every part of the package uses: settings and their files, and how a program of ours begins and ends."""
