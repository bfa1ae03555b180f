int price_of(const char *text);
