"""What is minimised: divergences of Sec. 3, the losses of eq. 4, and the methods that combine them."""
