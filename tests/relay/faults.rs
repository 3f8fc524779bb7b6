//! What goes wrong at the next server: each time the reply is right, and no mail that got 250 is missing.
