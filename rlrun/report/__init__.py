"""`rlrun report`: what runs did, as one page of HTML and as pictures.

`groups` puts runs together that differ in their seed only, `curves` makes numbers of
them, `figures` draws these, and `page` writes the HTML around them.
"""
