"""Chat formats, derived from the templates that models carry."""

from engines.llamacpp.chat_format.format import ChatFormat, Prepared
from engines.llamacpp.chat_format.parser import AnswerParser, Piece

__all__ = ["AnswerParser", "ChatFormat", "Piece", "Prepared"]
