"""The one error of the contract: content that does not keep to it."""


class ContractError(ValueError):
    """Content (a manifest, a bundle, a key, a name) breaks the contract; the message says where and how."""
