"""The processes of models as their owner sees them, and the cards they run on."""
