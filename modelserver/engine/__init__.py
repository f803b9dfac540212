"""The owner of the models: of their files, states, queues, processes and labels."""
