"""The slow and obvious engine: rollouts that are sampled in this process, by copies of the policy that are kept."""

import copy


class KeptCopies:
    """A copy of the whole policy at every refresh; a task is sampled with the one that was the newest then."""

    def __init__(self, policy):
        self.policy, self.step, self.tasks = policy, 0, {}
        self.newest = None
        self.made = []

    def start(self):
        pass

    def check(self):
        pass

    def refresh(self, step):
        critic, self.policy.critic = self.policy.critic, None
        self.newest, self.step = copy.deepcopy(self.policy), step
        self.policy.critic = critic
        self.made.append(step)

    def submit(self, due, task):
        self.tasks[due] = (self.step, self.newest, task)

    def ready(self, due):
        return due in self.tasks

    def collect(self, due):
        step, kept, task = self.tasks.pop(due)
        return step, task.sampled(kept)

    def close(self):
        self.tasks.clear()
