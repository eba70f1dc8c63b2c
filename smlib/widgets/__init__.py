"""See a policy write and delete: the stepper in JupyterLab, and its static twin on any page."""
