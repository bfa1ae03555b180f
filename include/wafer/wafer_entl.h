/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file wafer_entl.h
 * HTML as string literals. A tag and its attributes are written without quotes and become text after expansion.
 */
#ifndef CWEB_WAFER_ENTL_H
#define CWEB_WAFER_ENTL_H

#define WAFER__TEXT(...) WAFER__TEXT_(__VA_ARGS__)
#define WAFER__TEXT_(...) #__VA_ARGS__

#define STR(x) #x
#define WSPC " "
#define CRLF "\r\n"
#define GT ">"
#define ATTR(key, value) WAFER__TEXT(key) "=" WAFER__TEXT(value)

#define LT(tag) "<" WAFER__TEXT(tag) " "
#define LTA(tag, attributes) "<" WAFER__TEXT(tag) " " WAFER__TEXT(attributes) " "
#define OTAG(tag) "<" WAFER__TEXT(tag) " >"
#define OTAGA(tag, attributes) "<" WAFER__TEXT(tag) " " WAFER__TEXT(attributes) " >"
#define CTAG(tag) "</" WAFER__TEXT(tag) ">"
#define ESTAG(tag) "<" WAFER__TEXT(tag) "  />"
#define STAG(tag, attributes) "<" WAFER__TEXT(tag) " " WAFER__TEXT(attributes) "  />"
#define QTAG(tag, content) "<" WAFER__TEXT(tag) " >" content "</" WAFER__TEXT(tag) ">"
#define QTAGA(tag, attributes, content)                                                                              \
    "<" WAFER__TEXT(tag) " " WAFER__TEXT(attributes) " >" content "</" WAFER__TEXT(tag) ">"

#define QLINK(url, content) "<a href=" WAFER__TEXT(url) " >" content "</a>"
#define QLINKA(url, attributes, content) "<a href=" WAFER__TEXT(url) " " WAFER__TEXT(attributes) " >" content "</a>"
#define QIMG(url) "<img src=" WAFER__TEXT(url) "  />"
#define QIMGA(url) "<img src=" WAFER__TEXT(url) " attributes  />"
#define QBR "<br  />"

#define STAGPARAMQ(tag, attributes) "<" WAFER__TEXT(tag) " " WAFER__TEXT(attributes) " name=\"q\" />"
#define QTAGAPARAMQ(tag, attributes, content)                                                                        \
    "<" WAFER__TEXT(tag) " " WAFER__TEXT(attributes) " name=\"q\" >" content "</" WAFER__TEXT(tag) ">"

#endif /* CWEB_WAFER_ENTL_H */
