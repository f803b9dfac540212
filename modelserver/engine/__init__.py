"""What owns the models: their files, states, queues, processes and labels."""
