"""The app's side of the process edge."""
