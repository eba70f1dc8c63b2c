"""The edit MDP of Sec. 4: actions and states, noise, replay, masks of one forward pass, and packed rows."""
