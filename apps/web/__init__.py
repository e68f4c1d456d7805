"""What the demos in the browser share: who may connect, the model at work, who looks on."""
