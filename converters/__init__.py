"""Host tools: from a trained model to a signed bundle. Imports the contract, never the runtime."""
